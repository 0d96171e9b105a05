"""The refresh protocol as states and steps, small enough to try every order of them."""

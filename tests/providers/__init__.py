"""Real authorization servers that the tests start; each knows nothing of the library under test."""

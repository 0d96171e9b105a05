"""A dashboard whose access tokens live fifteen seconds, and whose viewer never notices."""

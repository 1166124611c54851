"""What configurations of other people's codes minimise, in this project's terms."""

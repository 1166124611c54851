"""What is measured of policies, and the best that their class can do."""

"""What runs inside one decoder process."""

"""What is measured on a finished network, with intervals."""

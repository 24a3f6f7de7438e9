"""What the README, the documents, the package and the examples say."""

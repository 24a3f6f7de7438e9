"""What Chromium and Node make of it."""

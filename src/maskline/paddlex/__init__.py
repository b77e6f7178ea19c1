"""What is PaddleX's: files that its programs write and others read."""

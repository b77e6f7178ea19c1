"""Results as objects, images and JSON (`result`), as files for other tools (`formats`), and their paths (`paths`)."""

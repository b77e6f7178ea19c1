"""Results, as objects, images and JSON (`result`), as files other tools read (`formats`), and their paths (`paths`)."""

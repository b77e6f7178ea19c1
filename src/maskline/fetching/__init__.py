"""Files from the network: models and inputs (`download`), and URLs that strangers name in requests (`url_policy`)."""

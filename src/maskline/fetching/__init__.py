"""Files from the network: models and inputs (`download`), and URLs named in requests to the service (`url_policy`)."""

"""Commands for whoever runs a deployment: `preceptor top` and `preceptor doctor`."""

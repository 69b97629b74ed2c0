"""Commands for whoever runs a deployment: `preceptor top`, `doctor` and `admin`."""

"""The known services, the information that each declares, and the checks of their answers."""

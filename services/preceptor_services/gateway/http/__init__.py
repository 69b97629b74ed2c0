"""What every route shares: keys, bodies, problem details, middleware and the page of routes."""

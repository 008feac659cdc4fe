"""The HTTP API: routes, middleware, forms and error responses."""

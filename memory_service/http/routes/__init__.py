"""The routes, one module a resource. They translate between HTTP and the store and decide nothing."""

//! Links, addresses, routes, neighbours, sysctls and namespaces as typed values

//! OpenAPI documents generated from the tables.

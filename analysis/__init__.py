"""Measures, tables, annotation layers, pages and viewer links, from labels. Arrays are z, y, x; tables are x, y, z."""

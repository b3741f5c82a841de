"""Labels in; numbers, tables, pictures and links out. Arrays are z, y, x; tables are x, y, z in nm."""

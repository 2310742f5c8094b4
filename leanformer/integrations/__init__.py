"""leanformer inside other libraries: each module is imported by whoever wants it, and imports that library at once."""

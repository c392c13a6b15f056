"""Paper B, Myakala 2022: its cells, repeats, tables, figures and claims."""

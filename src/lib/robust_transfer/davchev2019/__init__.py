"""Paper A, Davchev et al. 2019: its grid of networks, tables, figures and claims."""

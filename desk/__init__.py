"""The review desk: pages and an API over the review queue, for analysts and other programs.

Belongs here: HTTP, pages, pictures, who may do what. Does not: SQL, rules of the queue, and sums,
which are ``warehouse``'s, and anything of models. The settings are read in ``flows``.
"""

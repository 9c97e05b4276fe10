"""Finding mail: passages, search by words, and what joins two rankings. Vectors are `jobs.ml`'s."""

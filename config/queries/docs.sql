SELECT slug, title FROM docs ORDER BY slug

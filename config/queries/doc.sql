SELECT slug, title, body, updated_at FROM docs WHERE slug = $1

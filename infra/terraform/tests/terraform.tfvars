environment    = "staging"
domain_name    = "api.example.com"
hosted_zone_id = "Z0123456789ABC"
image          = "registry.example.com/mainstay:1.0.0"
psql_image     = "registry.example.com/postgres:17"

secrets = {
  origin_secret             = "test-origin-secret-0123456789abcdef"
  token_secret              = "test-token-secret-0123456789abcdef"
  admin_token               = "test-admin-token-0123456789abcdef"
  database_owner_password   = "test-owner-password-0123456789abcdef"
  database_serving_password = "test-serving-password-0123456789abcdef"
  database_reader_password  = "test-reader-password-0123456789abcdef"
  redis_password            = "test-redis-password-0123456789abcdef"
  redis_reader_password     = "test-redis-reader-password-0123456789abcdef"
}

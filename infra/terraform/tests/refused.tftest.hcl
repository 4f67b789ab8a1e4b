# What is refused at the plan, each variable by its name, as many in a run as do not depend on each other: where one is wrong,
# terraform asks nothing of those that are compared with it.

mock_provider "aws" {
  source = "./tests/mocks"
}

mock_provider "aws" {
  alias  = "eu_west_1"
  source = "./tests/mocks"
}

mock_provider "aws" {
  alias  = "ap_southeast_1"
  source = "./tests/mocks"
}

run "each_variable" {
  command = plan

  variables {
    name                       = "Mainstay!"
    environment                = "prod"
    domain_name                = "https://api.example.com"
    hosted_zone_id             = "example.com"
    image                      = "mainstay"
    psql_image                 = "registry.example.com/postgres:latest"
    vpc_cidrs                  = { us-east-1 = "10.20.0.0/16" }
    cacheable_paths            = ["/account/*"]
    cors_origins               = ["*"]
    edge_ttl_max_seconds       = 359
    price_class                = "PriceClass_100"
    waf_requests_per_5_minutes = 99
    failover_service           = { source = "primary" }
    traces_endpoints           = { eu-west-1 = "http://user:test-token@collector.example.com:4318" }
    log_brokers                = { eu-west-1 = "amqp://mainstay@rabbitmq.example.com" }
    metrics_cidrs              = ["0.0.0.0/0"]
    database                   = { instance_class = "large" }
    promoted_region            = "eu-central-1"
    redis                      = { nodes = 1 }
    secrets_version            = 0
    alarm_emails               = ["nobody"]
    log_days                   = 31
  }

  expect_failures = [
    var.name, var.environment, var.domain_name, var.hosted_zone_id, var.image, var.psql_image, var.vpc_cidrs, var.cacheable_paths,
    var.cors_origins, var.edge_ttl_max_seconds, var.price_class, var.waf_requests_per_5_minutes, var.failover_service,
    var.traces_endpoints, var.log_brokers, var.metrics_cidrs, var.database, var.promoted_region, var.redis, var.secrets_version, var.alarm_emails, var.log_days,
  ]
}

run "overlaps_and_too_few" {
  command = plan

  variables {
    domain_name      = "a-name-that-is-longer-than-certificates-have-room-for.example.com"
    image            = "registry.example.com/mainstay:latest"
    vpc_cidrs        = { us-east-1 = "10.20.0.0/16", eu-west-1 = "10.20.128.0/16", ap-southeast-1 = "10.22.0.0/16" }
    cacheable_paths  = ["/api/v1/*"]
    service          = { tasks_min = 1 }
    failover_service = { tasks_min = 0 }
    settings         = { MAINSTAY__SERVER__ADMIN_TOKEN = "test-token" }
    traces_endpoints = { eu-central-1 = "http://collector.example.com:4318" }
    log_brokers      = { eu-central-1 = "amqps://mainstay@rabbitmq.example.com" }
    redis            = { engine_version = "6.2" }
  }

  expect_failures = [
    var.domain_name, var.image, var.vpc_cidrs, var.cacheable_paths, var.service, var.failover_service, var.settings, var.traces_endpoints,
    var.log_brokers, var.redis,
  ]
}

run "limits_and_patterns" {
  command = plan

  variables {
    cacheable_paths      = ["/public/*/latest"]
    edge_ttl_max_seconds = 86401
    failover_service     = { memory_mib = 512 }
    database             = { storage_gib = 100, storage_max_gib = 100 }
    vpc_cidrs            = { us-east-1 = "10.20.0.0/24", eu-west-1 = "10.21.0.0/16", ap-southeast-1 = "10.22.0.0/16" }
    secrets = {
      origin_secret             = "short"
      token_secret              = "test-token-secret-0123456789abcdef"
      admin_token               = "test-admin-token-0123456789abcdef"
      database_owner_password   = "test-owner-password-0123456789abcdef"
      database_serving_password = "test-serving-password-0123456789abcdef"
      database_reader_password  = "test-reader-password-0123456789abcdef"
      redis_password            = "test-redis-password-0123456789abcdef"
      redis_reader_password     = "test-redis-reader-password-0123456789abcdef"
    }
  }

  expect_failures = [
    var.cacheable_paths, var.edge_ttl_max_seconds, var.failover_service, var.database, var.vpc_cidrs, var.secrets,
  ]
}

run "connections_and_secrets_that_stand_twice" {
  command = plan

  variables {
    cacheable_paths = ["/*"]
    # 4 × 20 × 27 and 50 are more than 1,500.
    service = { tasks_max = 20 }
    secrets = {
      origin_secret             = "test-origin-secret-0123456789abcdef"
      token_secret              = "test-origin-secret-0123456789abcdef"
      admin_token               = "test-admin-token-0123456789abcdef"
      database_owner_password   = "test-owner-password-0123456789abcdef"
      database_serving_password = "test-serving-password-0123456789abcdef"
      database_reader_password  = "test-reader-password-0123456789abcdef"
      redis_password            = "test-redis-password-0123456789abcdef"
      redis_reader_password     = "test-redis-reader-password-0123456789abcdef"
    }
  }

  expect_failures = [var.cacheable_paths, var.database, var.secrets]
}

run "three_values_while_rotating" {
  command = plan

  variables {
    cacheable_paths = ["/health/*"]
    database        = { ca_file = "roots.pem" }
    secrets = {
      origin_secret             = "test-origin-secret-0123456789abcdef,test-origin-secret-1123456789abcdef,test-origin-secret-2123456789abcdef"
      token_secret              = "test-token-secret-0123456789abcdef"
      admin_token               = "test-admin-token-0123456789abcdef"
      database_owner_password   = "test-owner-password-0123456789abcdef"
      database_serving_password = "test-serving-password-0123456789abcdef"
      database_reader_password  = "test-reader-password-0123456789abcdef"
      redis_password            = "test-redis-password-0123456789abcdef"
      redis_reader_password     = "test-redis-reader-password-0123456789abcdef"
    }
  }

  expect_failures = [var.cacheable_paths, var.database, var.secrets]
}

run "a_password_that_is_a_list" {
  command = plan

  variables {
    cacheable_paths = ["/api/v1/trans*"]
    secrets = {
      origin_secret             = "test-origin-secret-0123456789abcdef,test-origin-secret-1123456789abcdef"
      token_secret              = "test-token-secret-0123456789abcdef"
      admin_token               = "test-admin-token-0123456789abcdef"
      database_owner_password   = "test-owner-password-0123456789abcdef,test-owner-password-1123456789abcdef"
      database_serving_password = "test-serving-password-0123456789abcdef"
      database_reader_password  = "test-reader-password-0123456789abcdef"
      redis_password            = "test-redis-password-0123456789abcdef"
      redis_reader_password     = "test-redis-reader-password-0123456789abcdef"
    }
  }

  expect_failures = [var.cacheable_paths, var.secrets]
}

run "settings_that_break_the_chain_of_timeouts" {
  command = plan

  variables {
    settings = { MAINSTAY__SERVER__KEEP_ALIVE = "60s" }
  }

  expect_failures = [aws_cloudfront_distribution.edge]
}

run "a_request_that_takes_longer_than_the_edge_waits" {
  command = plan

  variables {
    settings = { MAINSTAY__LIMITS__REQUEST_TIMEOUT = "1m" }
  }

  expect_failures = [aws_cloudfront_distribution.edge]
}

run "a_size_and_a_setting_that_there_are_not" {
  command = plan

  variables {
    cacheable_paths = ["public/*"]
    service         = { cpu = 1000 }
    settings        = { MAINSTAY__CACHE__TTL = "5m" }
  }

  expect_failures = [var.cacheable_paths, var.service, var.settings]
}

run "no_room_for_new_tasks" {
  command = plan

  variables {
    cacheable_paths = ["/public/*", "/public/*"]
    service         = { cpu_percent = 95 }
  }

  expect_failures = [var.cacheable_paths, var.service]
}

run "no_backups" {
  command = plan

  variables {
    database = { backup_days = 0 }
  }

  expect_failures = [var.database]
}

# They may hold what a collector knows this sender by.
run "headers_of_an_export" {
  command = plan

  variables {
    settings = { MAINSTAY__TRACES__HEADERS = "authorization=test-token" }
  }

  expect_failures = [var.settings]
}

# A password in the URL could be read in the plan, and where there is none no line would be taken.
run "a_broker_with_its_password_in_the_url" {
  command = plan

  variables {
    log_brokers = { eu-west-1 = "amqps://mainstay:test-password@rabbitmq.example.com" }
    settings    = { MAINSTAY__TRACES__ENDPOINT = "http://collector.example.com:4318" }
  }

  expect_failures = [var.log_brokers, var.settings]
}

run "a_broker_without_a_password" {
  command = plan

  variables {
    log_brokers = { eu-west-1 = "amqps://mainstay@rabbitmq.example.com" }
  }

  expect_failures = [var.secrets]
}

run "a_broker_with_another_ones_password" {
  command = plan

  variables {
    log_brokers = { eu-west-1 = "amqps://mainstay@rabbitmq.example.com" }
    secrets = {
      origin_secret             = "test-origin-secret-0123456789abcdef"
      token_secret              = "test-token-secret-0123456789abcdef"
      admin_token               = "test-admin-token-0123456789abcdef"
      database_owner_password   = "test-owner-password-0123456789abcdef"
      database_serving_password = "test-serving-password-0123456789abcdef"
      database_reader_password  = "test-reader-password-0123456789abcdef"
      redis_password            = "test-redis-password-0123456789abcdef"
      redis_reader_password     = "test-redis-reader-password-0123456789abcdef"
      log_broker_password       = "test-redis-password-0123456789abcdef"
    }
  }

  expect_failures = [var.secrets]
}

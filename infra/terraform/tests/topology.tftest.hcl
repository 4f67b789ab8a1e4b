# The regions, the second origin, and what DNS makes of them.

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

run "reference" {
  command = plan

  # DNS

  assert {
    condition     = toset([for record in aws_route53_record.origin : one(record.latency_routing_policy).region]) == toset(["us-east-1", "eu-west-1", "ap-southeast-1"]) && length(distinct([for record in aws_route53_record.origin : record.name])) == 1
    error_message = "One name, with a latency record for each region."
  }
  assert {
    condition     = alltrue([for record in aws_route53_record.origin : one(record.alias).evaluate_target_health])
    error_message = "A load balancer without a living task is left at once."
  }
  assert {
    condition     = alltrue([for check in aws_route53_health_check.region : check.resource_path == "/health/edge"])
    error_message = "Route 53 asks /health/edge, which tells of lag."
  }
  assert {
    condition     = alltrue([for region, check in aws_route53_health_check.region : check.fqdn == "${region}.origin.api.example.com" && check.type == "HTTPS" && check.enable_sni])
    error_message = "Each region is asked by its own name, over TLS with that name."
  }
  assert {
    condition     = alltrue([for check in aws_route53_health_check.region : check.request_interval == 10 && check.failure_threshold <= 3])
    error_message = "Every ten seconds, and a region is left within half a minute."
  }
  assert {
    condition     = alltrue([for check in aws_route53_health_check.region : length(check.regions) >= 3])
    error_message = "Route 53 asks from many places."
  }
  assert {
    condition     = keys(aws_route53_health_check.region) == keys(aws_route53_record.origin)
    error_message = "Every record has its health check."
  }

  # What a region is told

  assert {
    condition     = alltrue([for region, origin in local.regions : origin.task.environment["REGION"] == region && origin.task.environment["MODE"] == "regional"])
    error_message = "Each region says who it is."
  }
  assert {
    condition     = !contains(keys(module.us_east_1.task.environment), "PRIMARY_ORIGIN") && alltrue([for origin in [module.eu_west_1, module.ap_southeast_1] : origin.task.environment["PRIMARY_ORIGIN"] == "https://us-east-1.origin.api.example.com"])
    error_message = "The other regions send what needs the primary to its region, which has nobody to send it to."
  }
  assert {
    condition     = alltrue([for origin in values(local.regions) : origin.task.secret_names == tolist(["ADMIN_TOKEN", "DATABASE_READ_REPLICA_URL", "DATABASE_URL", "ORIGIN_SECRET", "REDIS_URL", "TOKEN_SECRET"])])
    error_message = "Whatever holds a credential is told in secret."
  }

  assert {
    condition     = [for region, origin in local.regions : region if contains(keys(origin.task.environment), "MAINSTAY__EDGE__CLOUDFRONT_DISTRIBUTION_ID")] == ["us-east-1"]
    error_message = "One region tells CloudFront of purges, the primary's: each that tells pays."
  }

  # The second origin

  assert {
    condition     = module.failover_service.task.environment["MODE"] == "failover" && module.failover_service.task.environment["FAILOVER_SOURCE"] == "read-only" && local.primary_region != "eu-west-1"
    error_message = "The failover service runs in failover mode, in another region than the primary."
  }
  assert {
    condition     = module.failover_service.task.secret_names == tolist(["ADMIN_TOKEN", "DATABASE_READ_REPLICA_URL", "ORIGIN_SECRET", "REDIS_URL"])
    error_message = "The failover service has Redis and the replica to serve from, and neither the primary nor what signs tokens."
  }
  assert {
    condition     = contains(module.eu_west_1.redis.clients, "failover") && join(",", module.us_east_1.redis.clients) == "regional"
    error_message = "The Redis of its region lets the failover service in."
  }
  assert {
    condition     = local.failover_users == { redis = "reader", database = "reader" }
    error_message = "The failover service comes to Redis and to the replica as the user that may only read."
  }
  assert {
    condition     = strcontains(file("roles.sql"), "ALTER ROLE ${module.us_east_1.replica.user} SET default_transaction_read_only = on")
    error_message = "Replicas are read by a user that may only read."
  }
  assert {
    condition     = local.effective_settings["MAINSTAY__CACHE__NAMESPACE"] == "mainstay" && alltrue([for origin in values(local.regions) : lookup(origin.task.environment, "MAINSTAY__CACHE__NAMESPACE", "") == lookup(module.failover_service.task.environment, "MAINSTAY__CACHE__NAMESPACE", "")])
    error_message = "The namespace of the failover service is that of the regions, and that which Redis' users may see."
  }

  # Names

  assert {
    condition = length(setsubtract(
      flatten([
        for task in concat(values(local.regions)[*].task, [module.failover_service.task, module.migrate.task]) : concat(keys(task.environment), task.secret_names)
      ]),
      concat(
        keys(local.default_settings),
        [for name in regexall("\\(\"([A-Z_]+)\", \"[a-z_.]+\"\\)", file("../../src/config/settings.rs")) : name[0]],
      ),
    )) == 0
    error_message = "A task has a name in its environment that Mainstay does not read."
  }
  assert {
    condition     = length(local.default_settings) > 100 && contains(keys(local.default_settings), "MAINSTAY__SERVER__DRAIN_DELAY")
    error_message = "config/default.toml was not read as it should be."
  }

  # Ends

  assert {
    condition     = local.task.stop_timeout_seconds > local.shutdown_timeout_seconds && local.task.stop_timeout_seconds <= 120
    error_message = "A task is killed only after its server would have ended by itself."
  }
  assert {
    condition     = local.task.deregistration_seconds > local.shutdown_timeout_seconds && local.task.deregistration_seconds > local.request_timeout_seconds
    error_message = "The load balancer drains for longer than the server does."
  }
  assert {
    condition     = local.seconds["MAINSTAY__SERVER__SHUTDOWN_TIMEOUT"] == 25 && local.seconds["MAINSTAY__NODES__PICK_TTL"] == 60 && local.seconds["MAINSTAY__REDIS__TIMEOUT"] == 0.06
    error_message = "Times of config/default.toml were not read as they should be."
  }

  # Secrets

  assert {
    condition     = aws_db_instance.primary.password == null && aws_db_instance.primary.password_wo_version == 1
    error_message = "The owner's password is written, and not kept in the state."
  }
  assert {
    condition     = aws_db_instance.primary.manage_master_user_password == null
    error_message = "RDS keeps no password of an instance that has replicas."
  }

  # The primary

  assert {
    condition     = aws_db_instance.primary.backup_retention_period >= 1
    error_message = "Without backups there are no replicas."
  }
  assert {
    condition     = aws_db_instance.primary.multi_az && aws_db_instance.primary.deletion_protection && !aws_db_instance.primary.publicly_accessible && aws_db_instance.primary.storage_encrypted
    error_message = "The primary has a standby, is protected, private and encrypted."
  }
  assert {
    condition     = local.database_parameters["rds.force_ssl"].value == "1" && local.database_parameters["synchronous_commit"].value == "on"
    error_message = "Nobody comes to the database without TLS, and what was committed is on disk."
  }
  assert {
    condition     = tonumber(local.database_parameters["max_connections"].value) >= local.primary_connections_needed && local.primary_connections_of_a_task == 27
    error_message = "The primary has connections for all tasks of all regions."
  }
}

run "a_replica_was_promoted" {
  command = plan

  variables {
    promoted_region = "eu-west-1"
  }

  assert {
    condition     = local.primary.origin_host == "eu-west-1.origin.api.example.com" && !contains(keys(module.eu_west_1.task.environment), "PRIMARY_ORIGIN") && module.us_east_1.task.environment["PRIMARY_ORIGIN"] == "https://eu-west-1.origin.api.example.com"
    error_message = "All regions send what needs the primary to the new one's region."
  }
  assert {
    condition     = contains(keys(module.eu_west_1.task.environment), "MAINSTAY__EDGE__CLOUDFRONT_DISTRIBUTION_ID") && !contains(keys(module.us_east_1.task.environment), "MAINSTAY__EDGE__CLOUDFRONT_DISTRIBUTION_ID")
    error_message = "The new primary's region tells CloudFront of purges."
  }
  assert {
    condition     = alltrue([for origin in values(local.regions) : !contains(origin.task.secret_names, "DATABASE_READ_REPLICA_URL")])
    error_message = "Replicas that have lost their primary are read by nobody."
  }
}

run "a_replica_was_promoted_elsewhere" {
  command = plan

  variables {
    promoted_region = "ap-southeast-1"
  }

  override_resource {
    target          = module.ap_southeast_1.aws_db_instance.replica
    override_during = plan
    values          = { address = "promoted.rds.example.com" }
  }

  assert {
    condition     = local.failover_database_host == "promoted.rds.example.com"
    error_message = "The failover origin reads the new primary, not the replica beside it."
  }
}

run "a_failover_origin_without_a_database" {
  command = plan

  variables {
    failover_service = { source = "cache-only" }
  }

  assert {
    condition     = module.failover_service.task.secret_names == tolist(["ADMIN_TOKEN", "ORIGIN_SECRET", "REDIS_URL"])
    error_message = "It is not told of a database."
  }
  assert {
    condition     = alltrue([for name in ["DATABASE_READ_REPLICA_URL", "LOG_AMQP_URL"] : contains(keys(module.failover_secrets.arns), name)])
    error_message = "The secrets of what it is not told of now stay: for a week after they have gone nobody could make them again."
  }
}

run "log_lines_and_traces_have_somewhere_to_go" {
  command = plan

  variables {
    log_brokers      = { eu-west-1 = "amqps://mainstay@rabbitmq.example.com:5671/%2F" }
    traces_endpoints = { us-east-1 = "http://collector.us-east-1.example.com:4318", eu-west-1 = "http://collector.eu-west-1.example.com:4318" }
    secrets = {
      origin_secret             = "test-origin-secret-0123456789abcdef"
      token_secret              = "test-token-secret-0123456789abcdef"
      admin_token               = "test-admin-token-0123456789abcdef"
      database_owner_password   = "test-owner-password-0123456789abcdef"
      database_serving_password = "test-serving-password-0123456789abcdef"
      database_reader_password  = "test-reader-password-0123456789abcdef"
      redis_password            = "test-redis-password-0123456789abcdef"
      redis_reader_password     = "test-redis-reader-password-0123456789abcdef"
      log_broker_password       = "test-log-broker-password-0123456789abcdef"
    }
  }

  assert {
    condition     = [for task in [module.us_east_1.task, module.eu_west_1.task, module.ap_southeast_1.task, module.failover_service.task, module.migrate.task] : contains(task.secret_names, "LOG_AMQP_URL")] == [false, true, false, true, false]
    error_message = "The origins of a region that has a broker are told of it in secret, the failover origin that runs there included, and nobody else."
  }
  assert {
    condition     = alltrue([for task in [module.eu_west_1.task, module.failover_service.task] : alltrue([for value in values(task.environment) : !strcontains(value, "rabbitmq")])])
    error_message = "What is told in secret does not stand in the environment as well."
  }
  assert {
    condition     = [for task in [module.us_east_1.task, module.eu_west_1.task, module.ap_southeast_1.task, module.failover_service.task] : lookup(task.environment, "OTEL_EXPORTER_OTLP_ENDPOINT", "")] == ["http://collector.us-east-1.example.com:4318", "http://collector.eu-west-1.example.com:4318", "", "http://collector.eu-west-1.example.com:4318"]
    error_message = "The origins of a region send traces to its collector, the failover origin that runs there included."
  }
}

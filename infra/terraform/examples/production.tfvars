# A copy of this is all that a deployment needs, beside TF_VAR_secrets.
environment    = "production"
domain_name    = "api.example.com"
hosted_zone_id = "Z0123456789ABCDEFGHIJ"
image          = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mainstay:1.0.0"
psql_image     = "123456789012.dkr.ecr.us-east-1.amazonaws.com/postgres:17"

cors_origins = ["https://app.example.com"]
alarm_emails = ["oncall@example.com"]
log_days     = 90

service          = { cpu = 2048, memory_mib = 4096, tasks_min = 3, tasks_max = 10 }
failover_service = { cpu = 2048, memory_mib = 4096, tasks_min = 3, tasks_max = 12 }

# Where those who look after it look; secrets.log_broker_password is the password of the user.
traces_endpoints = { eu-west-1 = "http://collector.eu-west-1.internal:4318" }
log_brokers      = { eu-west-1 = "amqps://mainstay@rabbitmq.eu-west-1.internal:5671/%2F" }

settings = {
  MAINSTAY__RATE_LIMIT__PER_CLIENT = "100/s"
}

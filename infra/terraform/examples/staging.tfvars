# The same, small.
environment    = "staging"
domain_name    = "api.staging.example.com"
hosted_zone_id = "Z0123456789ABCDEFGHIJ"
image          = "123456789012.dkr.ecr.us-east-1.amazonaws.com/mainstay:1.0.0"
psql_image     = "123456789012.dkr.ecr.us-east-1.amazonaws.com/postgres:17"

# Apart from production's, should the two ever be peered.
vpc_cidrs = {
  us-east-1      = "10.30.0.0/16"
  eu-west-1      = "10.31.0.0/16"
  ap-southeast-1 = "10.32.0.0/16"
}

service          = { cpu = 512, memory_mib = 1024, tasks_max = 2 }
failover_service = { cpu = 512, memory_mib = 1024, tasks_max = 2 }
database         = { instance_class = "db.t4g.medium", storage_gib = 20, storage_max_gib = 100, connections_max = 300, backup_days = 1 }
redis            = { node_type = "cache.t4g.small" }
price_class      = "PriceClass_200"
log_days         = 14

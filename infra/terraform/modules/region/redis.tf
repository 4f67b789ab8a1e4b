# The fleet's shared cache and its bus. Losing it costs fills and nothing else, so there are no snapshots of it.

resource "aws_elasticache_subnet_group" "this" {
  name       = var.name
  subnet_ids = values(aws_subnet.private)[*].id
}

resource "aws_elasticache_parameter_group" "this" {
  name   = var.name
  family = "redis7"

  # Entries have an end and may go before it. The stream of changes has none, and stays; the list of hard purges has one, and is
  # written every five seconds, so that it is never what was used longest ago.
  parameter {
    name  = "maxmemory-policy"
    value = "volatile-lru"
  }
}

resource "aws_security_group" "redis" {
  name_prefix = "${var.name}-redis-"
  description = "Redis."
  vpc_id      = aws_vpc.this.id

  lifecycle {
    create_before_destroy = true
  }
}

# The failover origin of this region, where there is one, is among them: without it, it would have nothing to serve.
resource "aws_vpc_security_group_ingress_rule" "redis" {
  for_each = merge({ regional = module.balancer.target_security_group_id }, var.redis_clients)

  security_group_id            = aws_security_group.redis.id
  description                  = "Redis from the ${each.key} origin."
  referenced_security_group_id = each.value
  ip_protocol                  = "tcp"
  from_port                    = 6379
  to_port                      = 6379
}

# Every user group must have a user of this name. Nobody can log in as that one.
resource "aws_elasticache_user" "default" {
  user_id       = "${var.name}-default"
  user_name     = "default"
  engine        = "redis"
  access_string = "off ~keys* -@all +get"

  authentication_mode {
    type = "no-password-required"
  }
}

# Its own keys, and its own channel, on which one instance tells the others that what they wait for has come. INFO counts as
# dangerous, and says how much memory is left.
resource "aws_elasticache_user" "serving" {
  user_id       = "${var.name}-serving"
  user_name     = "serving"
  engine        = "redis"
  access_string = "on ~mainstay:* &mainstay:* -@all +@connection +@read +@write +@scripting +publish +subscribe +time -@dangerous +info"

  authentication_mode {
    type      = "password"
    passwords = [var.redis_passwords.serving]
  }
}

# The failover origin's: it cannot write what a regional origin would trust, whatever becomes of it (docs/failover.md).
resource "aws_elasticache_user" "reader" {
  user_id       = "${var.name}-reader"
  user_name     = "reader"
  engine        = "redis"
  access_string = "on ~mainstay:* -@all +@connection +get +pttl +xread"

  authentication_mode {
    type      = "password"
    passwords = [var.redis_passwords.reader]
  }
}

resource "aws_elasticache_user_group" "this" {
  user_group_id = var.name
  engine        = "redis"
  user_ids = [
    aws_elasticache_user.default.user_id,
    aws_elasticache_user.serving.user_id,
    aws_elasticache_user.reader.user_id,
  ]
}

resource "aws_elasticache_replication_group" "this" {
  replication_group_id = var.name
  description          = "${var.name}: shared cache and bus."
  engine               = "redis"
  engine_version       = var.redis.engine_version
  node_type            = var.redis.node_type
  parameter_group_name = aws_elasticache_parameter_group.this.name

  num_cache_clusters         = var.redis.nodes
  automatic_failover_enabled = true
  multi_az_enabled           = true
  subnet_group_name          = aws_elasticache_subnet_group.this.name
  security_group_ids         = [aws_security_group.redis.id]

  transit_encryption_enabled = true
  at_rest_encryption_enabled = true
  kms_key_id                 = aws_kms_key.this.arn
  user_group_ids             = [aws_elasticache_user_group.this.user_group_id]
  apply_immediately          = true
}

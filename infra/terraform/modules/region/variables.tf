variable "name" {
  description = "What everything in this region is called by."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,20}[a-z0-9]$", var.name))
    error_message = "name: up to 22 lower-case letters, digits and hyphens; what comes behind it has to fit into 32."
  }
}

variable "region" {
  description = "The region, which is that of the provider."
  type        = string

  validation {
    condition     = contains(keys(var.vpc_cidrs), var.region)
    error_message = "region: one that has an address range."
  }
}

variable "vpc_cidr" {
  description = "The address range of the VPC."
  type        = string

  validation {
    condition     = can(cidrnetmask(var.vpc_cidr))
    error_message = "vpc_cidr: an IPv4 range."
  }
}

variable "vpc_cidrs" {
  description = "The ranges of all regions, by region: who may ask the database."
  type        = map(string)

  validation {
    condition     = alltrue([for cidr in values(var.vpc_cidrs) : can(cidrnetmask(cidr))])
    error_message = "vpc_cidrs: IPv4 ranges."
  }
}

variable "hosted_zone_id" {
  description = "The zone of all names."
  type        = string

  validation {
    condition     = startswith(var.hosted_zone_id, "Z")
    error_message = "hosted_zone_id: the id of a zone."
  }
}

variable "host_name" {
  description = "The name of this region's load balancer."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9.-]+$", var.host_name))
    error_message = "host_name: a host name."
  }
}

variable "certificate_names" {
  description = "All names of the certificate."
  type        = list(string)

  validation {
    condition     = length(var.certificate_names) >= 2
    error_message = "certificate_names: the origin's and the clients'."
  }
}

variable "certificate_record_fqdns" {
  description = "The records that prove these names."
  type        = list(string)

  validation {
    condition     = length(var.certificate_record_fqdns) >= 1
    error_message = "certificate_record_fqdns: at least one."
  }
}

variable "forwarder_cidrs" {
  description = "Addresses of the other regions' NAT, which send here what needs the primary."
  type        = map(string)

  validation {
    condition     = alltrue([for cidr in values(var.forwarder_cidrs) : endswith(cidr, "/32")])
    error_message = "forwarder_cidrs: single addresses."
  }
}

variable "metrics_cidrs" {
  description = "Private ranges that may ask for /metrics."
  type        = set(string)

  validation {
    condition     = alltrue([for cidr in var.metrics_cidrs : can(cidrnetmask(cidr))])
    error_message = "metrics_cidrs: IPv4 ranges."
  }
}

variable "redis_clients" {
  description = "Groups of further tasks that use this Redis, by what they are."
  type        = map(string)

  validation {
    condition     = !contains(keys(var.redis_clients), "regional")
    error_message = "redis_clients: the regional origin is one in any case."
  }
}

variable "primary" {
  description = "Where the primary is: its region, whether it is a promoted replica, and the origin that requests are sent to."
  type        = object({ region = string, promoted = bool, origin_host = string })

  validation {
    condition     = contains(keys(var.vpc_cidrs), var.primary.region)
    error_message = "primary: a region with an address range."
  }
}

variable "database" {
  description = "Size and version of the replica."
  type = object({
    instance_class  = string
    engine_version  = string
    storage_max_gib = number
    backup_days     = number
    ca_file         = optional(string)
  })

  validation {
    condition     = startswith(var.database.instance_class, "db.") && var.database.backup_days >= 1
    error_message = "database: an instance class, and at least one day of backups."
  }
}

variable "database_parameters" {
  description = "Parameters of Postgres, and whether each takes a restart."
  type        = map(object({ value = string, static = bool }))

  validation {
    condition     = contains(keys(var.database_parameters), "max_connections")
    error_message = "database_parameters: max_connections is among them, equal on primary and replicas."
  }
}

variable "redis" {
  description = "Size and version of Redis."
  type        = object({ node_type = string, engine_version = string, nodes = number })

  validation {
    condition     = var.redis.nodes >= 2
    error_message = "redis: at least 2 nodes."
  }
}

variable "redis_passwords" {
  description = "Passwords of the users of Redis, which the provider takes in no other way."
  type        = object({ serving = string, reader = string })
  sensitive   = true

  validation {
    condition     = length(var.redis_passwords.serving) >= 16 && length(var.redis_passwords.reader) >= 16
    error_message = "redis_passwords: at least 16 characters each, which ElastiCache asks for."
  }
}

variable "secrets" {
  description = "The secrets; neither in the plan nor in the state."
  type = object({
    origin_secret             = string
    token_secret              = string
    admin_token               = string
    database_owner_password   = string
    database_serving_password = string
    database_reader_password  = string
    redis_password            = string
    redis_reader_password     = string
    log_broker_password       = optional(string)
  })
  ephemeral = true
  sensitive = true

  validation {
    condition     = length(var.secrets.origin_secret) > 0
    error_message = "secrets: origin_secret is not empty."
  }
}

variable "secrets_version" {
  description = "Counts how often they were changed."
  type        = number

  validation {
    condition     = var.secrets_version >= 1
    error_message = "secrets_version: a whole number from 1."
  }
}

variable "traces_endpoint" {
  description = "Where traces go; empty: nowhere."
  type        = string

  validation {
    condition     = var.traces_endpoint == "" || can(regex("^https?://[^@?]+$", var.traces_endpoint))
    error_message = "traces_endpoint: empty, or a URL without a user or a query."
  }
}

variable "log_broker" {
  description = "The RabbitMQ that log lines go to as well, without its password; empty: none."
  type        = string

  validation {
    condition     = var.log_broker == "" || can(regex("^amqps://[^:@/]+@[^@]+$", var.log_broker))
    error_message = "log_broker: empty, or amqps://user@host, without a password."
  }
}

variable "task" {
  description = "What every task of every origin has."
  type = object({
    image                    = string
    environment              = map(string)
    port                     = number
    admin_port               = number
    connections_max          = number
    idle_timeout_seconds     = number
    deregistration_seconds   = number
    shutdown_timeout_seconds = number
    stop_timeout_seconds     = number
  })

  validation {
    condition     = alltrue([for name in ["REGION", "MODE", "PRIMARY_ORIGIN"] : !contains(keys(var.task.environment), name)])
    error_message = "task: REGION, MODE and PRIMARY_ORIGIN are said here, and not in its environment."
  }
}

variable "service" {
  description = "Size and number of the regional origin's tasks."
  type = object({
    cpu                 = number
    memory_mib          = number
    tasks_min           = number
    tasks_max           = number
    cpu_percent         = number
    requests_per_minute = number
  })

  validation {
    condition     = var.service.tasks_min >= 2 && var.service.tasks_max >= var.service.tasks_min
    error_message = "service: at least 2 tasks."
  }
}

variable "log_days" {
  description = "How many days logs are kept."
  type        = number

  validation {
    condition     = var.log_days >= 1
    error_message = "log_days: at least 1."
  }
}

variable "alarm_emails" {
  description = "Who hears of alarms."
  type        = set(string)

  validation {
    condition     = alltrue([for email in var.alarm_emails : strcontains(email, "@")])
    error_message = "alarm_emails: e-mail addresses."
  }
}

variable "primary_database_arn" {
  description = "The database that the replica follows."
  type        = string

  validation {
    condition     = startswith(var.primary_database_arn, "arn:")
    error_message = "primary_database_arn: an ARN; within one region the identifier would not do either, since the replica has a subnet group."
  }
}

# Apart from the ARN: after a promotion it is the name of a replica, which itself depends on the ARN.
variable "primary_database_host" {
  description = "Where the primary is reached."
  type        = string

  validation {
    condition     = length(var.primary_database_host) > 0
    error_message = "primary_database_host: a host name."
  }
}

variable "distribution" {
  description = "The distribution that is told of purges."
  type        = object({ id = string, arn = string })

  validation {
    condition     = startswith(var.distribution.arn, "arn:")
    error_message = "distribution: its id and its ARN."
  }
}

# Every variable is validated: what is wrong is said by its name at `terraform plan`, not by a service half an hour later.
# `make infra` fails where a variable has no validation.

variable "name" {
  description = "What all resources are called by, with the environment behind it."
  type        = string
  default     = "mainstay"

  validation {
    # Target groups and load balancers have 32 characters for it all, "-production-failover" behind it.
    condition     = can(regex("^[a-z][a-z0-9]{1,10}$", var.name))
    error_message = "name: 2 to 11 lower-case letters and digits, a letter first."
  }
}

variable "environment" {
  description = "Which environment this is; part of every name and tag."
  type        = string

  validation {
    condition     = contains(["staging", "production"], var.environment)
    error_message = "environment: staging or production."
  }
}

variable "domain_name" {
  description = "The name that clients use; it leads to CloudFront. The origins get names below it."
  type        = string

  validation {
    condition     = can(regex("^([a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?\\.)+[a-z]{2,}$", var.domain_name))
    error_message = "domain_name: a host name in lower case, such as api.example.com."
  }

  validation {
    # CloudFront's certificate has "*.origin.NAME", and the first name of a certificate has at most 64 characters.
    condition     = length(var.domain_name) <= 55
    error_message = "domain_name: at most 55 characters, since certificates have 64 for the origin's name."
  }
}

variable "hosted_zone_id" {
  description = "The public Route 53 zone that holds domain_name."
  type        = string

  validation {
    condition     = can(regex("^Z[A-Z0-9]{5,31}$", var.hosted_zone_id))
    error_message = "hosted_zone_id: the id of a zone, such as Z0123456789ABCDEFGHIJ."
  }
}

variable "image" {
  description = "The image that the first revision of each task runs. Later ones are the pipeline's."
  type        = string

  validation {
    condition     = can(regex("^[^\\s:@]+(:[0-9]+)?/[^\\s:@]+(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})$", var.image))
    error_message = "image: registry/repository with a tag or a digest."
  }

  validation {
    # What `latest` means changes between two tasks of one deploy, and a rollback would find the new one there as well.
    condition     = !endswith(var.image, ":latest")
    error_message = "image: a version, not latest: a rollback has to find the image that it goes back to."
  }
}

variable "psql_image" {
  description = "An image with psql, for the task that makes the database's roles."
  type        = string

  validation {
    condition     = can(regex("^[^\\s:@]+(:[0-9]+)?/[^\\s:@]+(:[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}|@sha256:[0-9a-f]{64})$", var.psql_image)) && !endswith(var.psql_image, ":latest")
    error_message = "psql_image: registry/repository with a tag that is not latest, or a digest."
  }
}

variable "vpc_cidrs" {
  description = "The address range of each region's VPC. They are peered, so no two may overlap."
  type        = map(string)
  default = {
    us-east-1      = "10.20.0.0/16"
    eu-west-1      = "10.21.0.0/16"
    ap-southeast-1 = "10.22.0.0/16"
  }

  validation {
    condition     = toset(keys(var.vpc_cidrs)) == toset(["us-east-1", "eu-west-1", "ap-southeast-1"])
    error_message = "vpc_cidrs: one for each of us-east-1, eu-west-1 and ap-southeast-1."
  }

  validation {
    condition     = alltrue([for cidr in values(var.vpc_cidrs) : can(cidrnetmask(cidr)) && endswith(cidr, "/16")])
    error_message = "vpc_cidrs: IPv4 ranges of /16, which the subnets are cut from."
  }

  validation {
    # Ranges of one size overlap where they are the same range, however it is written.
    condition     = length(distinct([for cidr in values(var.vpc_cidrs) : try(cidrhost(cidr, 0), cidr)])) == length(var.vpc_cidrs)
    error_message = "vpc_cidrs: no two may overlap, or the regions could not reach the primary."
  }
}

variable "cacheable_paths" {
  description = "Path patterns that CloudFront may keep: routes without auth that say `public`. They fail over to the second origin, and take GET, HEAD and OPTIONS alone."
  type        = list(string)
  default     = ["/public/*", "/api/v1/rates*", "/api/v1/fees*", "/api/v1/currencies*"]

  validation {
    condition     = length(var.cacheable_paths) >= 1 && length(var.cacheable_paths) <= 24 && length(distinct(var.cacheable_paths)) == length(var.cacheable_paths)
    error_message = "cacheable_paths: 1 to 24 patterns, each once (CloudFront has 25 behaviours, one is for all the rest)."
  }

  validation {
    condition     = alltrue([for path in var.cacheable_paths : can(regex("^/[A-Za-z0-9_.~/-]+\\*?$", path))])
    error_message = "cacheable_paths: each begins with a slash and may end with an asterisk; one in the middle could cover anything."
  }

  validation {
    # A pattern covers a path where one is the beginning of the other, as far as the asterisk goes.
    condition = alltrue([
      for pair in setproduct(var.cacheable_paths, local.uncacheable_paths) :
      !startswith(pair[0], pair[1]) && !(endswith(pair[0], "*") && startswith(pair[1], trimsuffix(pair[0], "*")))
    ])
    error_message = "cacheable_paths: none may cover what is one caller's own, changes something or tells of health (see local.uncacheable_paths): no such answer is ever cached."
  }
}

variable "cors_origins" {
  description = "Origins of browsers that may read answers; empty: none."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for origin in var.cors_origins : can(regex("^https://[a-z0-9.-]+(:[0-9]+)?$", origin))])
    error_message = "cors_origins: each https://host, without a path."
  }
}

variable "edge_ttl_max_seconds" {
  description = "The longest that CloudFront keeps an answer, stale-while-revalidate included, whatever the origin says."
  type        = number
  default     = 3600

  validation {
    # Below max-age + stale-while-revalidate the latter never happens; below the failover origin's max-age the edge would ask it
    # more often than it asks to be.
    condition     = var.edge_ttl_max_seconds >= local.edge_ttl_needed_seconds && var.edge_ttl_max_seconds <= 86400
    error_message = "edge_ttl_max_seconds: at least max-age + stale-while-revalidate of the manifest and failover.max_age, at most a day."
  }
}

variable "price_class" {
  description = "Which of CloudFront's locations serve."
  type        = string
  default     = "PriceClass_All"

  validation {
    # The two smaller classes leave out parts of Asia and Oceania, whose region would serve through Europe.
    condition     = contains(["PriceClass_All", "PriceClass_200"], var.price_class)
    error_message = "price_class: PriceClass_All or PriceClass_200; PriceClass_100 has no location in Asia."
  }
}

variable "waf_requests_per_5_minutes" {
  description = "How many requests one address may send in five minutes before CloudFront refuses it."
  type        = number
  default     = 30000

  validation {
    condition     = var.waf_requests_per_5_minutes >= 100 && var.waf_requests_per_5_minutes <= 2000000000 && floor(var.waf_requests_per_5_minutes) == var.waf_requests_per_5_minutes
    error_message = "waf_requests_per_5_minutes: a whole number from 100, which is WAF's least, to 2,000,000,000."
  }
}

variable "service" {
  description = "Size and number of the regional origin's tasks, in each region."
  type = object({
    cpu                 = optional(number, 1024)
    memory_mib          = optional(number, 2048)
    tasks_min           = optional(number, 2)
    tasks_max           = optional(number, 8)
    cpu_percent         = optional(number, 50)
    requests_per_minute = optional(number, 120000)
  })
  default = {}

  validation {
    condition     = contains([512, 1024, 2048, 4096, 8192], var.service.cpu) && var.service.memory_mib >= 2 * var.service.cpu && var.service.memory_mib <= 8 * var.service.cpu
    error_message = "service: cpu of 512, 1024, 2048, 4096 or 8192, and two to eight MiB of memory for each unit of it: what Fargate has."
  }

  validation {
    condition     = var.service.tasks_min >= 2 && var.service.tasks_max >= var.service.tasks_min && var.service.tasks_max <= 100
    error_message = "service: at least 2 tasks, in two zones, and tasks_max from tasks_min to 100."
  }

  validation {
    condition     = var.service.cpu_percent >= 10 && var.service.cpu_percent <= 80 && var.service.requests_per_minute >= 100
    error_message = "service: cpu_percent of 10 to 80, since above that there is nothing left while new tasks start, and requests_per_minute from 100."
  }
}

variable "failover_service" {
  description = "Size and number of the failover origin's tasks, and what it answers from."
  type = object({
    source     = optional(string, "read-only")
    cpu        = optional(number, 1024)
    memory_mib = optional(number, 2048)
    tasks_min  = optional(number, 2)
    tasks_max  = optional(number, 12)
  })
  default = {}

  validation {
    condition     = contains(["cache-only", "read-only"], var.failover_service.source)
    error_message = "failover_service: source is cache-only or read-only."
  }

  validation {
    condition     = contains([512, 1024, 2048, 4096, 8192], var.failover_service.cpu) && var.failover_service.memory_mib >= 2 * var.failover_service.cpu && var.failover_service.memory_mib <= 8 * var.failover_service.cpu
    error_message = "failover_service: cpu of 512, 1024, 2048, 4096 or 8192, and two to eight MiB of memory for each unit of it: what Fargate has."
  }

  validation {
    # One that is started when it is needed comes minutes after the failure.
    condition     = var.failover_service.tasks_min >= 2 && var.failover_service.tasks_max >= var.failover_service.tasks_min && var.failover_service.tasks_max <= 100
    error_message = "failover_service: at least 2 tasks run at all times, and tasks_max is from tasks_min to 100: it has to be warm when it is asked."
  }
}

variable "settings" {
  description = "Further settings of all origins, by the names of their environment variables (MAINSTAY__SECTION__KEY)."
  type        = map(string)
  default     = {}

  validation {
    # Mainstay itself refuses to start with an unknown key, and a deploy would be rolled back after minutes.
    condition     = alltrue([for name in keys(var.settings) : contains(keys(local.default_settings), name)])
    error_message = "settings: a name that config/default.toml does not have."
  }

  validation {
    condition     = alltrue([for name in keys(var.settings) : !can(regex("(SECRET|TOKEN|URLS?|HEADERS)$", name)) || name == "MAINSTAY__AUTH__JWKS_URL"])
    error_message = "settings: secrets, and URLs that hold them, do not belong here: what stands here can be read in the task definition."
  }

  validation {
    condition     = !contains(keys(var.settings), "MAINSTAY__TRACES__ENDPOINT")
    error_message = "settings: where traces go is said by traces_endpoints, for each region."
  }
}

variable "traces_endpoints" {
  description = "By region, the collector that its origins send traces to, by OTLP over HTTP; a region that is not named sends none."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for region in keys(var.traces_endpoints) : contains(["us-east-1", "eu-west-1", "ap-southeast-1"], region)])
    error_message = "traces_endpoints: by region, each one of us-east-1, eu-west-1 and ap-southeast-1."
  }

  validation {
    # A credential in it could be read in the task definition.
    condition     = alltrue([for url in values(var.traces_endpoints) : can(regex("^https?://[a-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9_./-]*)?$", url))])
    error_message = "traces_endpoints: each like http://collector.internal:4318, without a user or a query."
  }
}

variable "log_brokers" {
  description = "By region, the RabbitMQ that its origins send log lines to as well, without the password, which is secrets.log_broker_password; a region that is not named sends none."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for region in keys(var.log_brokers) : contains(["us-east-1", "eu-west-1", "ap-southeast-1"], region)])
    error_message = "log_brokers: by region, each one of us-east-1, eu-west-1 and ap-southeast-1."
  }

  validation {
    # Lines and the password leave the task: not without TLS.
    condition     = alltrue([for url in values(var.log_brokers) : can(regex("^amqps://[A-Za-z0-9_.-]+@[a-z0-9.-]+(:[0-9]{1,5})?(/[A-Za-z0-9_.%-]*)?$", url))])
    error_message = "log_brokers: each like amqps://user@host:5671/vhost, with TLS and without a password."
  }
}

variable "metrics_cidrs" {
  description = "Who may ask the admin listener for /metrics: private IPv4 ranges, such as Prometheus'. Everything else there takes the token."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.metrics_cidrs : can(cidrnetmask(cidr)) && can(regex("^(10\\.|192\\.168\\.|172\\.(1[6-9]|2[0-9]|3[01])\\.)", cidr))])
    error_message = "metrics_cidrs: private IPv4 ranges; the admin listener speaks plain HTTP."
  }
}

variable "database" {
  description = "The Postgres primary and its replicas, which are of the same size: each may become the primary."
  type = object({
    instance_class  = optional(string, "db.r7g.large")
    engine_version  = optional(string, "15")
    storage_gib     = optional(number, 100)
    storage_max_gib = optional(number, 1000)
    backup_days     = optional(number, 7)
    connections_max = optional(number, 1500)
    ca_file         = optional(string)
  })
  default = {}

  validation {
    condition     = can(regex("^db\\.[a-z0-9]+\\.[a-z0-9]+$", var.database.instance_class)) && can(regex("^1[5-9](\\.[0-9]+)?$", var.database.engine_version))
    error_message = "database: instance_class as db.r7g.large, engine_version 15 or later."
  }

  validation {
    condition     = var.database.storage_gib >= 20 && var.database.storage_max_gib > var.database.storage_gib && var.database.storage_max_gib <= 65536
    error_message = "database: storage_gib from 20, and storage_max_gib above it, or a full disk stops all writes."
  }

  validation {
    # Without backups RDS writes no WAL that a replica could follow.
    condition     = var.database.backup_days >= 1 && var.database.backup_days <= 35
    error_message = "database: backup_days of 1 to 35; with 0 there can be no replicas."
  }

  validation {
    condition     = var.database.connections_max >= local.primary_connections_needed
    error_message = "database: connections_max is below what the tasks of all regions open at most: tasks_max × (database.pool_size + database.write_pool_size + 3), and a reserve for operators."
  }

  validation {
    condition     = var.database.ca_file == null || can(regex("^/[^\\s]+\\.pem$", var.database.ca_file))
    error_message = "database: ca_file is the path of a .pem file inside the image."
  }
}

variable "promoted_region" {
  description = "The region whose replica has become the primary; empty while the primary is the one in us-east-1. See the runbook."
  type        = string
  default     = ""

  validation {
    condition     = contains(["", "us-east-1", "eu-west-1", "ap-southeast-1"], var.promoted_region)
    error_message = "promoted_region: empty, us-east-1, eu-west-1 or ap-southeast-1."
  }
}

variable "redis" {
  description = "Each region's Redis."
  type = object({
    node_type      = optional(string, "cache.r7g.large")
    engine_version = optional(string, "7.1")
    nodes          = optional(number, 2)
  })
  default = {}

  validation {
    condition     = can(regex("^cache\\.[a-z0-9]+\\.[a-z0-9]+$", var.redis.node_type)) && can(regex("^7\\.[0-9]+$", var.redis.engine_version))
    error_message = "redis: node_type as cache.r7g.large, engine_version 7.x."
  }

  validation {
    condition     = var.redis.nodes >= 2 && var.redis.nodes <= 6
    error_message = "redis: 2 to 6 nodes; one alone has nobody to fail over to, and no replica that the failover origin could read."
  }
}

variable "secrets" {
  description = "The secrets, which stand in neither plan nor state; README.md tells how they are made and handed over."
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
    # They stand in URLs, in headers and in comma lists.
    condition     = alltrue([for value in values(var.secrets) : alltrue([for part in split(",", value) : can(regex("^[A-Za-z0-9_-]{32,128}$", part))]) if value != null])
    error_message = "secrets: each of 32 to 128 letters, digits, hyphens and underscores."
  }

  validation {
    condition     = length(split(",", var.secrets.origin_secret)) <= 2 && length(split(",", var.secrets.token_secret)) <= 2 && length(split(",", var.secrets.admin_token)) <= 2
    error_message = "secrets: origin_secret, token_secret and admin_token are one value, or two while they are replaced."
  }

  validation {
    condition     = alltrue([for name, value in var.secrets : !strcontains(value, ",") if value != null && !contains(["origin_secret", "token_secret", "admin_token"], name)])
    error_message = "secrets: passwords are one value each."
  }

  validation {
    # Whoever learns one of them must not have another.
    condition     = length(distinct(flatten([for value in values(var.secrets) : split(",", value) if value != null]))) == length(flatten([for value in values(var.secrets) : split(",", value) if value != null]))
    error_message = "secrets: no value may stand twice."
  }

  validation {
    condition     = length(var.log_brokers) == 0 || var.secrets.log_broker_password != null
    error_message = "secrets: log_brokers are named, and log_broker_password is not there."
  }
}

variable "secrets_version" {
  description = "Counts how often `secrets` was changed: raise it by one, or what was changed is not written."
  type        = number
  default     = 1

  validation {
    condition     = var.secrets_version >= 1 && floor(var.secrets_version) == var.secrets_version
    error_message = "secrets_version: a whole number from 1."
  }
}

variable "alarm_emails" {
  description = "Who hears of alarms."
  type        = list(string)
  default     = []

  validation {
    condition     = alltrue([for email in var.alarm_emails : can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", email))])
    error_message = "alarm_emails: e-mail addresses."
  }
}

variable "log_days" {
  description = "How many days logs are kept."
  type        = number
  default     = 30

  validation {
    condition     = contains([7, 14, 30, 60, 90, 180, 365, 400], var.log_days)
    error_message = "log_days: 7, 14, 30, 60, 90, 180, 365 or 400, which CloudWatch knows."
  }
}

variable "name" {
  description = "What the service is called by; also the family of its task definitions."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "name: up to 32 lower-case letters, digits and hyphens."
  }
}

variable "region" {
  description = "The region it stands in."
  type        = string

  validation {
    condition     = can(regex("^[a-z]{2}-[a-z]+-[0-9]$", var.region))
    error_message = "region: the name of a region."
  }
}

variable "cluster_arn" {
  description = "The ECS cluster."
  type        = string

  validation {
    condition     = startswith(var.cluster_arn, "arn:")
    error_message = "cluster_arn: an ARN."
  }
}

variable "cluster_name" {
  description = "Its name."
  type        = string

  validation {
    condition     = length(var.cluster_name) > 0
    error_message = "cluster_name: not empty."
  }
}

variable "subnet_ids" {
  description = "Private subnets, one a zone."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "subnet_ids: at least two, in two zones."
  }
}

variable "security_group_id" {
  description = "The group of the tasks."
  type        = string

  validation {
    condition     = length(var.security_group_id) > 0
    error_message = "security_group_id: the id of a group."
  }
}

variable "target_group_arn" {
  description = "Where tasks register."
  type        = string

  validation {
    condition     = startswith(var.target_group_arn, "arn:")
    error_message = "target_group_arn: an ARN."
  }
}

variable "metric_dimensions" {
  description = "What CloudWatch calls the load balancer and the target group."
  type        = object({ LoadBalancer = string, TargetGroup = string })

  validation {
    condition     = length(var.metric_dimensions.LoadBalancer) > 0 && length(var.metric_dimensions.TargetGroup) > 0
    error_message = "metric_dimensions: both."
  }
}

variable "image" {
  description = "The image of the first revision."
  type        = string

  validation {
    condition     = can(regex("[:@]", var.image))
    error_message = "image: with a tag or a digest."
  }
}

variable "cpu" {
  description = "Units of CPU; 1024 are a core."
  type        = number

  validation {
    condition     = contains([512, 1024, 2048, 4096, 8192], var.cpu)
    error_message = "cpu: 512, 1024, 2048, 4096 or 8192."
  }
}

variable "memory_mib" {
  description = "Memory of a task in MiB."
  type        = number

  validation {
    condition     = var.memory_mib >= 1024
    error_message = "memory_mib: at least 1024."
  }
}

variable "environment" {
  description = "What a task has in its environment beside what every one has."
  type        = map(string)

  validation {
    condition     = alltrue([for name in keys(var.environment) : !contains(keys(var.secrets), name)])
    error_message = "environment: a name stands among the secrets as well."
  }
}

variable "secrets" {
  description = "Secrets by the name of their environment variable, each the ARN with its version."
  type        = map(string)

  validation {
    condition     = contains(keys(var.secrets), "ORIGIN_SECRET")
    error_message = "secrets: without ORIGIN_SECRET anybody's distribution of CloudFront could ask this origin."
  }
}

variable "kms_key_arn" {
  description = "The key of the log and of the secrets."
  type        = string

  validation {
    condition     = startswith(var.kms_key_arn, "arn:")
    error_message = "kms_key_arn: an ARN."
  }
}

variable "port" {
  description = "The public listener."
  type        = number

  validation {
    condition     = var.port >= 1024 && var.port <= 65535
    error_message = "port: from 1024, since the tasks are not root."
  }
}

variable "admin_port" {
  description = "The admin listener."
  type        = number

  validation {
    condition     = var.admin_port >= 1024 && var.admin_port <= 65535 && var.admin_port != var.port
    error_message = "admin_port: from 1024, and not the public one."
  }
}

variable "connections_max" {
  description = "server.connections_max; fewer where there are not enough descriptors."
  type        = number

  validation {
    condition     = var.connections_max >= 100
    error_message = "connections_max: at least 100."
  }
}

variable "shutdown_timeout_seconds" {
  description = "server.shutdown_timeout."
  type        = number

  validation {
    condition     = var.shutdown_timeout_seconds > 0
    error_message = "shutdown_timeout_seconds: above 0."
  }
}

variable "stop_timeout_seconds" {
  description = "How long a task may take to end before it is killed."
  type        = number

  validation {
    condition     = var.stop_timeout_seconds >= 2
    error_message = "stop_timeout_seconds: at least 2."
  }
}

variable "tasks_min" {
  description = "How many tasks there are at least."
  type        = number

  validation {
    condition     = var.tasks_min >= 2
    error_message = "tasks_min: at least 2, in two zones."
  }
}

variable "tasks_max" {
  description = "How many tasks there are at most."
  type        = number

  validation {
    condition     = var.tasks_max >= var.tasks_min
    error_message = "tasks_max: at least tasks_min."
  }
}

variable "cpu_percent" {
  description = "Average CPU above which tasks are added."
  type        = number

  validation {
    condition     = var.cpu_percent >= 10 && var.cpu_percent <= 80
    error_message = "cpu_percent: 10 to 80."
  }
}

variable "requests_per_minute" {
  description = "Requests a task and minute above which tasks are added."
  type        = number

  validation {
    condition     = var.requests_per_minute >= 100
    error_message = "requests_per_minute: at least 100."
  }
}

variable "errors_per_minute_max" {
  description = "5xx a minute above which there is an alarm."
  type        = number

  validation {
    condition     = var.errors_per_minute_max >= 0
    error_message = "errors_per_minute_max: at least 0."
  }
}

variable "log_days" {
  description = "How many days the log is kept."
  type        = number

  validation {
    condition     = var.log_days >= 1
    error_message = "log_days: at least 1."
  }
}

variable "alarm_topic_arn" {
  description = "Who hears of alarms."
  type        = string

  validation {
    condition     = startswith(var.alarm_topic_arn, "arn:")
    error_message = "alarm_topic_arn: an ARN."
  }
}

variable "distribution_arns" {
  description = "Distributions of CloudFront that the tasks may tell of purges, by any name."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for arn in values(var.distribution_arns) : startswith(arn, "arn:")])
    error_message = "distribution_arns: ARNs."
  }
}

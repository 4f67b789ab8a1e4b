variable "name" {
  description = "What the load balancer and all that is around it are called by."
  type        = string

  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,30}[a-z0-9]$", var.name))
    error_message = "name: up to 32 lower-case letters, digits and hyphens, which is what load balancers take."
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

variable "vpc_id" {
  description = "The VPC."
  type        = string

  validation {
    condition     = length(var.vpc_id) > 0
    error_message = "vpc_id: the id of a VPC."
  }
}

variable "subnet_ids" {
  description = "Public subnets, one a zone."
  type        = list(string)

  validation {
    condition     = length(var.subnet_ids) >= 2
    error_message = "subnet_ids: at least two, in two zones."
  }
}

variable "certificate_arn" {
  description = "A certificate of this region that has host_name, and the name that CloudFront sends as Host."
  type        = string

  validation {
    condition     = startswith(var.certificate_arn, "arn:")
    error_message = "certificate_arn: an ARN."
  }
}

variable "hosted_zone_id" {
  description = "The zone of host_name."
  type        = string

  validation {
    condition     = startswith(var.hosted_zone_id, "Z")
    error_message = "hosted_zone_id: the id of a zone."
  }
}

variable "host_name" {
  description = "The name that leads here."
  type        = string

  validation {
    condition     = can(regex("^[a-z0-9.-]+$", var.host_name))
    error_message = "host_name: a host name."
  }
}

variable "port" {
  description = "The public listener of the tasks."
  type        = number

  validation {
    condition     = var.port >= 1024 && var.port <= 65535
    error_message = "port: from 1024, since the tasks are not root."
  }
}

variable "admin_port" {
  description = "The admin listener of the tasks; nothing leads to it from outside."
  type        = number

  validation {
    condition     = var.admin_port >= 1024 && var.admin_port <= 65535 && var.admin_port != var.port
    error_message = "admin_port: from 1024, and not the public one."
  }
}

variable "idle_timeout_seconds" {
  description = "How long an idle connection stays open."
  type        = number

  validation {
    condition     = var.idle_timeout_seconds >= 1 && var.idle_timeout_seconds <= 4000
    error_message = "idle_timeout_seconds: 1 to 4000."
  }
}

variable "deregistration_seconds" {
  description = "How long requests to a task that goes may take."
  type        = number

  validation {
    condition     = var.deregistration_seconds >= 0 && var.deregistration_seconds <= 3600
    error_message = "deregistration_seconds: 0 to 3600."
  }
}

variable "dns_checks" {
  description = "Whether Route 53 checks it."
  type        = bool

  validation {
    condition     = var.dns_checks != null
    error_message = "dns_checks: true or false."
  }
}

variable "forwarder_cidrs" {
  description = "Addresses of other regions that send requests here, by a name for each."
  type        = map(string)
  default     = {}

  validation {
    condition     = alltrue([for cidr in values(var.forwarder_cidrs) : endswith(cidr, "/32")])
    error_message = "forwarder_cidrs: single addresses, as 192.0.2.1/32."
  }
}

variable "metrics_cidrs" {
  description = "Private ranges that may ask for /metrics."
  type        = set(string)
  default     = []

  validation {
    condition     = alltrue([for cidr in var.metrics_cidrs : can(cidrnetmask(cidr))])
    error_message = "metrics_cidrs: IPv4 ranges."
  }
}

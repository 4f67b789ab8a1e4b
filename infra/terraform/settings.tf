# What Mainstay does by default is read from its own defaults, so that timeouts of balancers and CDN cannot drift away from
# those of the server. `var.settings` stands above them, as the environment does in the server.

locals {
  default_settings = merge([
    for section in slice(split("\n[", file("${path.module}/../../config/default.toml")), 1, length(split("\n[", file("${path.module}/../../config/default.toml")))) : {
      for setting in regexall("(?m)^([a-z0-9_]+) *= *(\"[^\"]*\"|[^ \\n#]+)", section) :
      "MAINSTAY__${upper(replace(split("]", section)[0], ".", "__"))}__${upper(setting[0])}" => trim(setting[1], "\"")
    }
  ]...)
  effective_settings = merge(local.default_settings, var.settings)

  unit_seconds = { ms = 0.001, s = 1, m = 60, h = 3600, d = 86400 }
  # Settings that are a time, in seconds.
  seconds = {
    for name, value in local.effective_settings : name =>
    tonumber(regex("^([0-9]+)(ms|s|m|h|d)$", value)[0]) * local.unit_seconds[regex("^([0-9]+)(ms|s|m|h|d)$", value)[1]]
    if can(regex("^([0-9]+)(ms|s|m|h|d)$", value))
  }

  request_timeout_seconds   = local.seconds["MAINSTAY__LIMITS__REQUEST_TIMEOUT"]
  statement_timeout_seconds = local.seconds["MAINSTAY__DATABASE__STATEMENT_TIMEOUT"]
  keep_alive_seconds        = local.seconds["MAINSTAY__SERVER__KEEP_ALIVE"]
  shutdown_timeout_seconds  = local.seconds["MAINSTAY__SERVER__SHUTDOWN_TIMEOUT"]

  # A chain in which nobody closes a connection that the one before it is about to use: CloudFront lets go first, the server last.
  edge_keep_alive_seconds = 50
  balancer_idle_seconds   = 60

  # What the shipped manifest tells caches to keep, and what the failover origin issues.
  manifest_edge_seconds = max([
    for policy in regexall("browser_ttl = \"([0-9]+)(s|m|h|d)\"\\s+stale_while_revalidate = \"([0-9]+)(s|m|h|d)\"", file("${path.module}/../../config/routes.toml")) :
    tonumber(policy[0]) * local.unit_seconds[policy[1]] + tonumber(policy[2]) * local.unit_seconds[policy[3]]
  ]...)
  edge_ttl_needed_seconds = max(local.manifest_edge_seconds, local.seconds["MAINSTAY__FAILOVER__MAX_AGE"])

  # Routes of the shipped manifest that have a caller, or change something: as far as their first parameter.
  manifest_private_paths = distinct([
    for route in slice(local.manifest_routes, 1, length(local.manifest_routes)) : split("{", regex("(?m)^path *= *\"([^\"]+)\"", route)[0])[0]
    if can(regex("(?m)^auth *= *\"", route)) || can(regex("(?m)^methods *= *\\[\"(POST|PUT|PATCH|DELETE)\"", route))
  ])
  manifest_routes = split("[[route]]", file("${path.module}/../../config/routes.toml"))
  # Besides: prefixes that are private by default, whatever manifest there is, and what must be true this very moment.
  uncacheable_paths = concat(local.manifest_private_paths, [
    "/account", "/health", "/nodes", "/stats",
    "/api/v1/onramp", "/api/v1/offramp", "/api/v1/mint", "/api/v1/transaction", "/api/v1/transfer", "/api/v1/redemption",
  ])

  # Sampler, change feed and the leader's own connection come on top of the pools.
  primary_connections_of_a_task = (
    tonumber(local.effective_settings["MAINSTAY__DATABASE__POOL_SIZE"]) + tonumber(local.effective_settings["MAINSTAY__DATABASE__WRITE_POOL_SIZE"]) + 3
  )
  # All regions at their largest, one of them with twice its tasks, as a roll-out has for a while; 50 for operators and for RDS.
  primary_connections_needed = 4 * var.service.tasks_max * local.primary_connections_of_a_task + 50
}

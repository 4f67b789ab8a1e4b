# One service of Mainstay on Fargate: its task definition, how it is rolled out, and how many tasks there are.

locals {
  # Each worker, one a core, takes server.connections_max connections, and watching them takes a second descriptor each. Fargate
  # gives a task 65535, so with more cores a worker takes fewer; 2048 are for databases, Redis, upstreams and files.
  descriptors     = 65535
  workers         = ceil(var.cpu / 1024)
  connections_max = min(var.connections_max, floor((local.descriptors - 2048) / (2 * local.workers)))
  cache_bytes     = floor(var.memory_mib * 1048576 * 0.4)
  container_name  = "mainstay"
  task_environment = merge(
    {
      BIND_ADDR                         = "0.0.0.0:${var.port}"
      ADMIN_ADDR                        = "0.0.0.0:${var.admin_port}"
      LOG_FORMAT                        = "json"
      MAINSTAY__CACHE__MEMORY_BYTES_MAX = tostring(local.cache_bytes)
      MAINSTAY__SERVER__CONNECTIONS_MAX = tostring(local.connections_max)
      MAINSTAY__SERVER__WORKERS         = tostring(local.workers)
    },
    var.environment,
  )
}

module "roles" {
  source = "../roles"

  name        = var.name
  secrets     = var.secrets
  kms_key_arn = var.kms_key_arn

  distribution_arns = var.distribution_arns
}

resource "aws_cloudwatch_log_group" "this" {
  name              = "/${var.name}"
  retention_in_days = var.log_days
  kms_key_id        = var.kms_key_arn
}

resource "aws_ecs_task_definition" "this" {
  family = var.name
  # The service still runs the revision before, and goes back to it where this one fails: what is inactive it cannot.
  skip_destroy             = true
  requires_compatibilities = ["FARGATE"]
  network_mode             = "awsvpc"
  cpu                      = var.cpu
  memory                   = var.memory_mib
  execution_role_arn       = module.roles.execution_role_arn
  task_role_arn            = module.roles.task_role_arn

  container_definitions = jsonencode([{
    name      = local.container_name
    image     = var.image
    essential = true
    command   = ["serve"]

    portMappings = [{ containerPort = var.port, protocol = "tcp" }]
    environment  = [for name in sort(keys(local.task_environment)) : { name = name, value = local.task_environment[name] }]
    secrets      = [for name in sort(keys(var.secrets)) : { name = name, valueFrom = var.secrets[name] }]

    # The server ends by itself within server.shutdown_timeout; who kills it sooner cuts off what it was about to finish.
    stopTimeout = var.stop_timeout_seconds
    ulimits     = [{ name = "nofile", softLimit = local.descriptors, hardLimit = local.descriptors }]

    user                   = "65532:65532"
    readonlyRootFilesystem = true
    linuxParameters        = { initProcessEnabled = false, capabilities = { drop = ["ALL"] } }

    logConfiguration = {
      logDriver = "awslogs"
      options = {
        awslogs-group         = aws_cloudwatch_log_group.this.name
        awslogs-region        = var.region
        awslogs-stream-prefix = "task"
        # A log that cannot be written is missed by nobody: requests must not wait for CloudWatch.
        mode            = "non-blocking"
        max-buffer-size = "8m"
      }
    }
  }])

  lifecycle {
    precondition {
      condition     = var.stop_timeout_seconds > var.shutdown_timeout_seconds && var.stop_timeout_seconds <= 120
      error_message = "stop_timeout_seconds: above server.shutdown_timeout, and at most the 120 s that Fargate grants."
    }
  }
}

resource "aws_ecs_service" "this" {
  name            = var.name
  cluster         = var.cluster_arn
  task_definition = aws_ecs_task_definition.this.arn
  desired_count   = var.tasks_min
  launch_type     = "FARGATE"
  propagate_tags  = "SERVICE"

  # New tasks first, then the old ones go: never fewer than there were. A version whose tasks do not become healthy goes back by
  # itself.
  deployment_minimum_healthy_percent = 100
  deployment_maximum_percent         = 200

  deployment_circuit_breaker {
    enable   = true
    rollback = true
  }

  # A task is alive within a second; what takes longer is pulling the image, which comes before this.
  health_check_grace_period_seconds = 30
  wait_for_steady_state             = false

  network_configuration {
    subnets          = var.subnet_ids
    security_groups  = [var.security_group_id]
    assign_public_ip = false
  }

  load_balancer {
    target_group_arn = var.target_group_arn
    container_name   = local.container_name
    container_port   = var.port
  }

  lifecycle {
    # How many there are is autoscaling's, and which revision runs is the pipeline's, which migrates first.
    ignore_changes = [desired_count, task_definition]
  }
}

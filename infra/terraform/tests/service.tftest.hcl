# One service: how it is rolled out, scaled and stopped, and what its tasks may do.

mock_provider "aws" {
  source = "./tests/mocks"
}

variables {
  name              = "test-service"
  region            = "us-east-1"
  cluster_arn       = "arn:aws:ecs:us-east-1:123456789012:cluster/test"
  cluster_name      = "test"
  subnet_ids        = ["subnet-1", "subnet-2"]
  security_group_id = "sg-1"
  target_group_arn  = "arn:aws:elasticloadbalancing:us-east-1:123456789012:targetgroup/mock/0"
  metric_dimensions = { LoadBalancer = "app/mock/1", TargetGroup = "targetgroup/mock/2" }
  cpu               = 1024
  memory_mib        = 2048
  environment       = { MODE = "regional" }
  secrets = {
    ORIGIN_SECRET = "arn:aws:secretsmanager:us-east-1:123456789012:secret:origin-AbCdEf:::version-1"
  }
  kms_key_arn              = "arn:aws:kms:us-east-1:123456789012:key/mock"
  port                     = 8080
  admin_port               = 9090
  connections_max          = 10000
  shutdown_timeout_seconds = 25
  stop_timeout_seconds     = 35
  tasks_min                = 2
  tasks_max                = 8
  cpu_percent              = 50
  requests_per_minute      = 120000
  errors_per_minute_max    = 60
  log_days                 = 30
  alarm_topic_arn          = "arn:aws:sns:us-east-1:123456789012:mock"
}

run "a_service" {
  command = apply

  module {
    source = "./modules/service"
  }

  assert {
    condition     = aws_ecs_task_definition.this.skip_destroy
    error_message = "The revision that runs is there to go back to."
  }
  assert {
    condition     = one(aws_ecs_service.this.deployment_circuit_breaker).enable && one(aws_ecs_service.this.deployment_circuit_breaker).rollback
    error_message = "A version that does not come up goes back by itself."
  }
  assert {
    condition     = aws_ecs_service.this.deployment_minimum_healthy_percent == 100 && aws_ecs_service.this.deployment_maximum_percent == 200
    error_message = "New tasks come first, then the old ones go."
  }
  assert {
    condition     = aws_ecs_service.this.health_check_grace_period_seconds >= 10
    error_message = "A task gets a moment to start."
  }
  assert {
    condition     = !aws_ecs_service.this.network_configuration[0].assign_public_ip
    error_message = "Tasks have no public address."
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].stopTimeout > var.shutdown_timeout_seconds
    error_message = "A task is killed only after its server would have ended by itself."
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].ulimits[0].softLimit >= 2 * 10000 * local.workers
    error_message = "There are two descriptors for each connection that the server takes."
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].readonlyRootFilesystem && jsondecode(aws_ecs_task_definition.this.container_definitions)[0].user == "65532:65532" && jsondecode(aws_ecs_task_definition.this.container_definitions)[0].linuxParameters.capabilities.drop[0] == "ALL"
    error_message = "The container writes nowhere, is not root, and has no capabilities."
  }
  assert {
    condition     = jsondecode(aws_ecs_task_definition.this.container_definitions)[0].logConfiguration.options.mode == "non-blocking"
    error_message = "A slow CloudWatch stops no request."
  }
  assert {
    condition     = endswith(jsondecode(aws_ecs_task_definition.this.container_definitions)[0].secrets[0].valueFrom, ":::version-1")
    error_message = "A secret's new version is a new revision, so that it is rolled out and back like anything else."
  }
  assert {
    condition     = length(setintersection([for entry in jsondecode(aws_ecs_task_definition.this.container_definitions)[0].environment : entry.name], ["ORIGIN_SECRET", "DATABASE_URL", "REDIS_URL", "ADMIN_TOKEN", "TOKEN_SECRET"])) == 0
    error_message = "No secret stands in the environment for all to read."
  }
  assert {
    condition     = aws_appautoscaling_policy.cpu.target_tracking_scaling_policy_configuration[0].predefined_metric_specification[0].predefined_metric_type == "ECSServiceAverageCPUUtilization" && aws_appautoscaling_policy.requests.target_tracking_scaling_policy_configuration[0].predefined_metric_specification[0].predefined_metric_type == "ALBRequestCountPerTarget"
    error_message = "It scales by CPU and by requests."
  }
  assert {
    condition     = aws_appautoscaling_policy.requests.target_tracking_scaling_policy_configuration[0].predefined_metric_specification[0].resource_label == "app/mock/1/targetgroup/mock/2"
    error_message = "Requests are those of its own target group."
  }
  assert {
    condition     = aws_appautoscaling_target.this.min_capacity == 2 && aws_ecs_service.this.desired_count == 2
    error_message = "It is warm: the least number of tasks runs all the time."
  }
  assert {
    condition     = strcontains(file("modules/service/main.tf"), "ignore_changes = [desired_count, task_definition]") && aws_ecs_service.this.name != ""
    error_message = "Terraform leaves alone what autoscaling and the pipeline decide."
  }
  assert {
    condition     = tonumber(local.task_environment["MAINSTAY__CACHE__MEMORY_BYTES_MAX"]) < 0.5 * 2048 * 1048576
    error_message = "The cache leaves memory for requests."
  }
}

run "a_large_task" {
  command = plan

  variables {
    cpu        = 8192
    memory_mib = 16384
  }

  module {
    source = "./modules/service"
  }

  assert {
    condition     = 2 * tonumber(local.task_environment["MAINSTAY__SERVER__CONNECTIONS_MAX"]) * local.workers <= 65535 - 1024 && local.workers == 8
    error_message = "More workers take fewer connections each, or descriptors run out."
  }
}

run "stopped_too_soon" {
  command = plan

  variables {
    stop_timeout_seconds = 25
  }

  module {
    source = "./modules/service"
  }

  expect_failures = [aws_ecs_task_definition.this]
}

run "refused" {
  command = plan

  variables {
    secrets     = { REDIS_URL = "arn:aws:secretsmanager:us-east-1:123456789012:secret:redis-AbCdEf:::version-1" }
    tasks_min   = 1
    cpu         = 100
    cpu_percent = 95
  }

  module {
    source = "./modules/service"
  }

  expect_failures = [var.secrets, var.tasks_min, var.cpu, var.cpu_percent]
}

run "a_secret_for_all_to_read" {
  command = plan

  variables {
    environment = { ORIGIN_SECRET = "test-origin-secret-0123456789abcdef" }
  }

  module {
    source = "./modules/service"
  }

  expect_failures = [var.environment]
}

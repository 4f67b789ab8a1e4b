data "aws_iam_policy_document" "assume" {
  statement {
    actions = ["sts:AssumeRole"]

    principals {
      type        = "Service"
      identifiers = ["ecs-tasks.amazonaws.com"]
    }
  }
}

# What ECS itself does before the task starts: pull the image, open the log, read these secrets and no others.
resource "aws_iam_role" "execution" {
  name_prefix        = "${var.name}-exec-"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

resource "aws_iam_role_policy_attachment" "execution" {
  role       = aws_iam_role.execution.name
  policy_arn = "arn:aws:iam::aws:policy/service-role/AmazonECSTaskExecutionRolePolicy"
}

data "aws_iam_policy_document" "secrets" {
  statement {
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [for value_from in values(var.secrets) : split(":::", value_from)[0]]
  }

  statement {
    actions   = ["kms:Decrypt"]
    resources = [var.kms_key_arn]
  }
}

resource "aws_iam_role_policy" "secrets" {
  name   = "secrets"
  role   = aws_iam_role.execution.id
  policy = data.aws_iam_policy_document.secrets.json
}

# What the task itself may do with AWS: tell CloudFront of purges, where it is the one that does.
resource "aws_iam_role" "task" {
  name_prefix        = "${var.name}-task-"
  assume_role_policy = data.aws_iam_policy_document.assume.json
}

data "aws_iam_policy_document" "purges" {
  for_each = var.distribution_arns

  statement {
    actions   = ["cloudfront:CreateInvalidation"]
    resources = [each.value]
  }
}

resource "aws_iam_role_policy" "purges" {
  for_each = var.distribution_arns

  name   = "purges-${each.key}"
  role   = aws_iam_role.task.id
  policy = data.aws_iam_policy_document.purges[each.key].json
}

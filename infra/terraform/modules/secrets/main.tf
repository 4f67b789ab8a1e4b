# Secrets of one region, each by the name under which a task has it in its environment. The values pass through: they are
# neither in the plan nor in the state.

resource "aws_secretsmanager_secret" "this" {
  # checkov:skip=CKV2_AWS_57:Rotation is three steps over CloudFront and all regions (README.md), which no function of Secrets Manager can do.

  for_each = setunion(var.names, var.kept)

  name        = "${var.name}/${each.key}"
  description = "${each.key} of ${var.name}."
  kms_key_id  = var.kms_key_arn
  # What was taken away by mistake can be had back for so long.
  recovery_window_in_days = 7
}

resource "aws_secretsmanager_secret_version" "this" {
  for_each = var.names

  secret_id                = aws_secretsmanager_secret.this[each.key].id
  secret_string_wo         = var.contents[each.key]
  secret_string_wo_version = var.contents_version

  lifecycle {
    # The new version is there before the old one loses its label, so that a task which starts meanwhile finds one.
    create_before_destroy = true
  }
}

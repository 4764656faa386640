output "artifact_bucket_name" {
  description = "Bucket of the artifacts; make takes it as ARTIFACT_BUCKET"
  value       = local.builds ? aws_s3_bucket.store.id : var.artifact_bucket_name
}

output "history_bucket_name" {
  description = "Bucket of the stage's history; make takes it as HISTORY_BUCKET"
  value       = aws_s3_bucket.store.id
}

output "image_repository_arn" {
  description = "Repository of the image; prod's bootstrap takes it"
  value       = local.image_repository_arn
}

output "image_repository_uri" {
  description = "Where images are pushed; make takes it as IMAGE_REPOSITORY"
  value       = local.builds ? aws_ecr_repository.image[0].repository_url : ""
}

output "execution_role_arn" {
  description = "Role that CloudFormation acts as; make takes it as EXECUTION_ROLE"
  value       = aws_iam_role.execution.arn
}

output "permissions_boundary_arn" {
  description = "Boundary that every role of the stage's stacks must have; make takes it as PERMISSIONS_BOUNDARY"
  value       = aws_iam_policy.boundary.arn
}

output "role_arns" {
  description = "Roles for the variables AWS_DEV_ROLE, AWS_PROD_ROLE or AWS_PULL_REQUEST_ROLE (deploy), AWS_DEV_DRIFT_ROLE or AWS_PROD_DRIFT_ROLE (drift)"
  value       = { for name, role in aws_iam_role.jobs : name => role.arn }
}

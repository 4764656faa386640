output "artifact_bucket_name" {
  description = "Bucket of packaged templates and of the deployments' history; make takes it as ARTIFACT_BUCKET"
  value       = aws_s3_bucket.artifacts.id
}

output "image_repository_uri" {
  description = "Repository of the image; make takes it as IMAGE_REPOSITORY"
  value       = aws_ecr_repository.image.repository_url
}

output "execution_role_arn" {
  description = "Role that CloudFormation acts as; make takes it as EXECUTION_ROLE"
  value       = aws_iam_role.execution.arn
}

output "permissions_boundary_arn" {
  description = "Boundary that every role of the stacks must have; make takes it as PERMISSIONS_BOUNDARY"
  value       = aws_iam_policy.boundary.arn
}

output "role_arns" {
  description = "Roles for the repository variables AWS_DEV_ROLE, AWS_PROD_ROLE, AWS_DRIFT_ROLE and AWS_PULL_REQUEST_ROLE"
  value       = { for name, role in aws_iam_role.jobs : name => role.arn }
}

"""A platform's settings as the environment of a process."""


def variables(settings):
    """The variables by which a program finds the platform, as its user; without the root key."""
    return {
        "LIBSAFE_URL": settings.url,
        "LIBSAFE_KEY_USER": settings.key_user,
        "LIBSAFE_S3_ENDPOINT": settings.s3.endpoint,
        "LIBSAFE_S3_BUCKET": settings.s3.bucket,
        "LIBSAFE_S3_ACCESS_KEY": settings.s3.access_key,
        "LIBSAFE_S3_SECRET_KEY": settings.s3.secret_key,
    }

"""Teachers: trained by the study, read from files, or built by other libraries."""

#!/usr/bin/env bash
# Databases and users, once, when the data folder is empty: a user each for the study and for MLflow, who cannot open the other's
# database, and one who reads all, for backups. Passwords come from the environment and are no process's argument.
set -euo pipefail

for name in OPTUNA_PASSWORD MLFLOW_PASSWORD BACKUP_PASSWORD; do
  value=${!name:?is not set: see infra/kuberay/secrets.example.yaml}
  if [ "${value#REPLACE}" != "$value" ] || [ "${#value}" -lt 12 ]; then
    echo "init.sh: $name is a placeholder or shorter than 12 characters" >&2
    exit 1
  fi
done

psql --username "${POSTGRES_USER:-postgres}" --dbname postgres --no-psqlrc --set ON_ERROR_STOP=1 <<'SQL'
\getenv optuna OPTUNA_PASSWORD
\getenv mlflow MLFLOW_PASSWORD
\getenv backup BACKUP_PASSWORD
SET password_encryption = 'scram-sha-256';
SET log_statement = 'none';
SET log_min_error_statement = 'panic';
CREATE ROLE paraphrase LOGIN CONNECTION LIMIT 50 PASSWORD :'optuna';
CREATE ROLE mlflow LOGIN CONNECTION LIMIT 70 PASSWORD :'mlflow';
CREATE ROLE backup LOGIN CONNECTION LIMIT 3 PASSWORD :'backup' IN ROLE pg_read_all_data;
CREATE DATABASE optuna OWNER paraphrase;
CREATE DATABASE mlflow OWNER mlflow;
CREATE DATABASE mlflow_auth OWNER mlflow;
REVOKE CONNECT, TEMPORARY ON DATABASE optuna, mlflow, mlflow_auth FROM PUBLIC;
GRANT CONNECT ON DATABASE optuna, mlflow, mlflow_auth TO backup;
SQL

-- The server's first start makes the database `simplenet`; Optuna and MLflow get their own, because each of the
-- three keeps a table named alembic_version.
CREATE DATABASE optuna;
CREATE DATABASE mlflow;

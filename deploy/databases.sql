-- Roles and databases on the PostgreSQL server, each with one owner and closed to the others.
-- Run once as a superuser: psql --file deploy/databases.sql, with the three passwords in the
-- environment. The compose file runs it when its server is made.
\set ON_ERROR_STOP on
\getenv nightwarden_password PG_NIGHTWARDEN_PASSWORD
\getenv prefect_password PG_PREFECT_PASSWORD
\getenv mlflow_password PG_MLFLOW_PASSWORD

CREATE ROLE nightwarden LOGIN PASSWORD :'nightwarden_password';
CREATE ROLE prefect LOGIN PASSWORD :'prefect_password';
CREATE ROLE mlflow LOGIN PASSWORD :'mlflow_password';

CREATE DATABASE lake OWNER nightwarden ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE queue OWNER nightwarden ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE prefect OWNER prefect ENCODING 'UTF8' TEMPLATE template0;
CREATE DATABASE mlflow OWNER mlflow ENCODING 'UTF8' TEMPLATE template0;

REVOKE ALL ON DATABASE lake, queue, prefect, mlflow FROM PUBLIC;

-- DuckLake and Nightwarden recognise some of the server's messages by their English words.
ALTER DATABASE lake SET lc_messages = 'C';
ALTER DATABASE queue SET lc_messages = 'C';

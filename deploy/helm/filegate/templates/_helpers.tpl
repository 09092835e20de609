{{- define "filegate.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 55 characters: "-admin" and "-config" are appended. */}}
{{- define "filegate.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := include "filegate.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 55 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 55 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "filegate.selector" -}}
app.kubernetes.io/name: {{ include "filegate.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "filegate.labels" -}}
{{ include "filegate.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "filegate.image" -}}
{{ .Values.image.repository }}:{{ default .Chart.AppVersion .Values.image.tag }}
{{- end -}}

{{- define "filegate.secret" -}}
{{- default (include "filegate.fullname" .) .Values.existingSecret -}}
{{- end -}}

{{- define "filegate.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "filegate.fullname" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end -}}

{{- define "filegate.publicUrl" -}}
{{- if .Values.publicUrl -}}
{{- .Values.publicUrl -}}
{{- else if .Values.ingress.enabled -}}
https://{{ .Values.ingress.host }}
{{- end -}}
{{- end -}}

{{/* A secret's key as a variable; "optional" where filegate does without. */}}
{{- define "filegate.secretEnv" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef:
      name: {{ .secret }}
      key: {{ .key }}
      {{- if .optional }}
      optional: true
      {{- end }}
{{- end -}}

{{/* What would start and then not work. */}}
{{- define "filegate.check" -}}
{{- if not .Values.blobs.url -}}
{{- fail "blobs.url is needed: s3://BUCKET/PREFIX?endpoint=URL&region=REGION" -}}
{{- end -}}
{{- if not .Values.existingSecret -}}
{{- if not .Values.database.url -}}
{{- fail "database.url or existingSecret is needed: replicas have their rows in PostgreSQL" -}}
{{- end -}}
{{- if and (not .Values.redis.url) (eq .Values.limits.scope "shared") -}}
{{- fail "redis.url or existingSecret is needed, or limits.scope: per-replica" -}}
{{- end -}}
{{- end -}}
{{- if ne (empty .Values.blobs.accessKeyId) (empty .Values.blobs.secretAccessKey) -}}
{{- fail "blobs.accessKeyId and blobs.secretAccessKey go together" -}}
{{- end -}}
{{- end -}}

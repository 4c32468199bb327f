#!/usr/bin/env nextflow
/*
 * multivi-nf: MultiVI for mosaics of RNA, chromatin accessibility and surface protein.
 * The door: parameters -> one workflow.
 */

include { checked_parameters ; help_text                  } from './modules/parameters'
include { checkpoint_notice ; failure_text ; success_text ; watch_training ; write_parameters } from './modules/closing'
include { outdir_problem ; release_outdir ; take_outdir ; write_manifest } from './modules/outdir'
include { REPROCESS                                       } from './workflows/reprocess'

workflow {
    main:
    if (params.help.toString() == 'true') {
        println(help_text())
    }
    else if (params.version.toString() == 'true') {
        println("${workflow.manifest.name.tokenize('/').last()} ${workflow.manifest.version}")
    }
    else {
        settings = checked_parameters(params)
        problem = workflow.preview ? '' : outdir_problem(settings) ?: take_outdir(settings)
        problem ? error(problem) : null
        workflow.onComplete = {
            workflow.preview ? null : write_manifest(settings)
            release_outdir(settings)
            workflow.success ? log.info(success_text(settings.outdir)) : System.err.println(failure_text())
        }
        notice = checkpoint_notice(settings)
        notice ? log.warn(notice) : null
        workflow.preview ? null : write_parameters(settings)
        workflow.preview ? null : watch_training(settings)
        REPROCESS(settings)
    }
}

#!/usr/bin/env nextflow
/*
 * multivi-nf: MultiVI for mosaics of RNA, chromatin accessibility and surface protein.
 * The door: parameters -> one workflow.
 */

include { checked_parameters ; help_text                  } from './modules/parameters'
include { checkpoint_notice ; failure_text                } from './modules/closing'
include { success_text ; write_parameters                 } from './modules/closing'
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
        workflow.onComplete = {
            workflow.success ? log.info(success_text(settings.outdir)) : System.err.println(failure_text())
        }
        notice = checkpoint_notice(settings)
        notice ? log.warn(notice) : null
        write_parameters(settings)
        REPROCESS(settings)
    }
}
